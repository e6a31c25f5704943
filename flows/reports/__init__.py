"""What people read: cards, summaries, reports, Prefect's pages, answers to SQL."""
