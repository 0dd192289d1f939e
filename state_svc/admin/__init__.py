"""Care of stores: check, backup and restore, and projects as files of their own."""
