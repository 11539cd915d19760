"""Imports into Animora's own tables: data sets in the NCF text format, and a synthetic feed."""
