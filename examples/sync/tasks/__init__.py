"""Tasks that everybody sees, and sees change."""
