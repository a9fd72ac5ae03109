"""Why clients of a system lack what the platform can do, where several systems lack it alike."""

from collections.abc import Mapping

PLATFORM: Mapping[str, str] = {
    "GetKeySet": "Its tokens are opaque to clients.",
    "LinkService": "It has no e-mail links.",
    "MemberService": "Its accounts are persons, without a tenant that others belong to.",
    "OrganizationService": "It has no organizations.",
    "WorkerService": "It does not show who produces its answers.",
    "AuditLedger": "Proving the books is the platform's own.",
    "CreateEmbeddings": "It has no embeddings.",
    "GetModel": "Its catalogue has another shape.",
    "ListModels": "Its catalogue has another shape.",
    "ListUsageRecords": "It does not show single requests.",
}
"""Operation or service → the reason, of each system but the canonical one."""

NO_KEYS: Mapping[str, str] = {"ApiKeyService": "It has no API keys."}
NO_OAUTH: Mapping[str, str] = {"OAuthService": "Its clients sign in with a password."}
NO_WALLET: Mapping[str, str] = {"LedgerService": "It shows no wallet."}
