"""Model inference: loads models onto the device, encodes the catalog for them and executes batches."""
