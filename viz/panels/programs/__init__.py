"""What programs ask instead of people: named endpoints, which are an MCP server's tools as well."""
