"""Gradio panels: one panel of the app per file; a panel gets its services as arguments."""
