"""Bytes on a disk: folders of others are let in with care, files replaced whole, locked, hashed."""
