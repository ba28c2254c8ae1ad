"""The published systems, each assembled from the verbs of :mod:`hybrid.pipelines`."""
