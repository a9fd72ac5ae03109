"""OAuthService: signing in with an account that somebody has elsewhere."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.auth.v1 import oauth_pb2 as pb
from vlinders.auth.v1 import sessions_pb2
from vlinders.auth.v1.oauth_pb2_grpc import OAuthServiceServicer
from vlinders_auth.oauth import Callback, OAuthSignIns
from vlinders_auth.service.sessions import Signing


class OAuthService(OAuthServiceServicer):
    def __init__(self, sign_ins: OAuthSignIns, signing: Signing) -> None:
        self.sign_ins = sign_ins
        self.signing = signing

    async def BeginOAuth(
        self, request: pb.BeginOAuthRequest, context: ServicerContext[Any, Any]
    ) -> pb.BeginOAuthResponse:
        location, browser_token = await self.sign_ins.begin(request.provider)
        return pb.BeginOAuthResponse(location=location, browser_token=browser_token)

    async def FinishOAuth(
        self, request: pb.FinishOAuthRequest, context: ServicerContext[Any, Any]
    ) -> sessions_pb2.SignIn:
        callback = Callback(request.code, request.state, request.error, request.browser_token)
        return self.signing.sign(await self.sign_ins.finish(request.provider, callback))
