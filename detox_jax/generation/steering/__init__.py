"""What changes the next token's distribution while text is decoded: bans, experts, contrasts."""
