"""What enters each layer of the base, per task: samples and second moments."""
