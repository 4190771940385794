"""Conversations: event-sourced talk, its state at any point, and the context of the next call.

Events are appended in a gapless order (sql/schema/conversation_context.sql); what a conversation is
at any point is the fold of its events. `Conversations.before` and `.after` stand around a call.
"""

from helix.conversations.context import (
    ContextOptions,
    ContextStrategy,
    Recalled,
    read_options,
)
from helix.conversations.domain import Conversations, Prepared, SearchMemories, build
from helix.conversations.errors import (
    BadPoint,
    BrokenHistory,
    BudgetTooSmall,
    ConversationNotActive,
    ConversationNotFound,
    EventRefused,
    ExternalIdTaken,
    MessageExists,
    MessageNotFound,
    NothingToCompress,
)
from helix.conversations.fold import decode, encode, fold
from helix.conversations.hooks import after_hook, before_hook
from helix.conversations.jobs import enqueue_compression, register_jobs
from helix.conversations.routes import ConversationCaller, build_router
from helix.conversations.service import append_events, erase_user_content, state_at
from helix.conversations.summarise import Summarise, summariser
from helix.conversations.turns import NoteUses, ReadMessages, read_chat_messages
from helix.conversations.types import (
    CompressionType,
    Conversation,
    ConversationStatus,
    Event,
    EventType,
    NewEvent,
    State,
)

__all__ = [
    "BadPoint",
    "BrokenHistory",
    "BudgetTooSmall",
    "CompressionType",
    "ContextOptions",
    "ContextStrategy",
    "Conversation",
    "ConversationCaller",
    "ConversationNotActive",
    "ConversationNotFound",
    "ConversationStatus",
    "Conversations",
    "Event",
    "EventRefused",
    "EventType",
    "ExternalIdTaken",
    "MessageExists",
    "MessageNotFound",
    "NewEvent",
    "NoteUses",
    "NothingToCompress",
    "Prepared",
    "ReadMessages",
    "Recalled",
    "SearchMemories",
    "State",
    "Summarise",
    "after_hook",
    "append_events",
    "before_hook",
    "build",
    "build_router",
    "decode",
    "encode",
    "enqueue_compression",
    "erase_user_content",
    "fold",
    "read_chat_messages",
    "read_options",
    "register_jobs",
    "state_at",
    "summariser",
]
