"""Figures: plain data in, a Plotly figure as a plain dict out. Nothing here knows Gradio or torch."""
