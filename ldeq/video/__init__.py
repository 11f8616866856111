"""Video: RwR streams, smoothing filters, reading, writing, drawing."""
