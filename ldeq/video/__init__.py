"""Video: RwR streams, filters, reading, writing, drawing."""
