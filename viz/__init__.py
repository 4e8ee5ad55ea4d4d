"""Figures and panels made from plain data; nothing here touches a model."""
