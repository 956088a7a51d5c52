"""Options: their declarations, the sources of their values, and the combinations refused."""
