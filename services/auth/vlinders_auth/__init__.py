"""Who is who: accounts, their tenants, the sessions and API keys by which they are known."""
