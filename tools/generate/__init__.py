"""What is made out of the code: man pages, completions, the references of commands and configuration."""
