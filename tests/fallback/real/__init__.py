"""With torch and transformers: `pip install -e '.[test,transformers]'`."""
