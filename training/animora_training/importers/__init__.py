"""What is imported: data sets in the NCF text format, and a made-up feed."""
