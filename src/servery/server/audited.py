"""What administrators do, written down as it ends: whoever it was, from where, what came of it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from servery.server.service import Exchange
from servery.telemetry.ledger.audit import Act, AuditLog
from servery.wire.errors import ApiError

# Whoever needs no key is a program of this machine; see `admin`.
LOCAL = "local"


@contextlib.asynccontextmanager
async def audited(audit: AuditLog, exchange: Exchange, action: str) -> AsyncGenerator[None, None]:
    """Inside, what an administrator asked for is done; behind it stands in the audit log, however it ended.

    Of the request it tells what a handler understood of it, and nothing as it came.
    """
    outcome = "failed"
    try:
        yield
        outcome = "done"
    except ApiError as error:
        outcome = f"refused {error.status} {error.code or error.kind}"
        raise
    except asyncio.CancelledError:
        outcome = "cut short"
        raise
    finally:
        act = Act(
            who=exchange.caller.key or LOCAL,
            action=action,
            subject=exchange.subject or exchange.arguments.get("id", ""),
            source=exchange.request.peer or "",
            outcome=outcome,
        )
        await asyncio.shield(asyncio.to_thread(audit.record, act))
