"""What an evaluation found, as a page, tables and pictures: verb `report`."""
