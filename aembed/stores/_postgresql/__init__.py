"""What the PostgreSQL store and column share. Only this folder imports asyncpg."""
