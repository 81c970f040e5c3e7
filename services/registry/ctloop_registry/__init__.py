"""Registry: which version of a model is champion, and since when; which pipelines are in force."""
