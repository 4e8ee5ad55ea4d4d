"""The OSRM tab."""
