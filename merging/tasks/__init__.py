"""Labelled texts, embedded or brought, and the splits that they are measured on."""
