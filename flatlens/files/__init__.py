"""Bytes on a disk: folders from strangers are checked; files are replaced as a whole, locked and hashed."""
