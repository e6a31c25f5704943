"""Reports for people: cards, summaries, reports, Prefect's pages, answers to SQL."""
