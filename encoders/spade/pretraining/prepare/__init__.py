"""Paired samples into one `spots.h5ad`, in resumable stages with bounded memory."""
