"""What people say of methods' texts: blinded sheets, and what raters answered on them."""
