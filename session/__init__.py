"""Conversations with Claude as event-sourced sessions."""
