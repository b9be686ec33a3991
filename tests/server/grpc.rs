//! gRPC's clients: tonic's, and one that sends just the frames it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// The protocol's messages.
#[allow(missing_docs, clippy::all)]
pub mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// The messages of gRPC's health protocol.
#[allow(missing_docs, clippy::all)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

pub const SERVICE: &str = "/inference.GRPCInferenceService";

/// tonic's client.
pub struct Client {
    pub runtime: Arc<Runtime>,
    grpc: Grpc<Channel>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = Arc::new(Runtime::new().unwrap());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { runtime, grpc: Grpc::new(channel).max_decoding_message_size(usize::MAX) }
    }

    /// Calls a method of the protocol.
    pub fn ask<Q, A>(&self, method: &str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.call(&format!("{SERVICE}/{method}"), Request::new(question)).map(Response::into_inner)
    }

    /// Calls any method.
    pub fn call<Q, A>(&self, path: &str, request: Request<Q>) -> Result<Response<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            grpc.unary(request, path.parse().unwrap(), ProstCodec::<Q, A>::default()).await
        })
    }

    /// Sends these requests on one stream, and reads all answers.
    pub fn stream<Q, A>(&self, method: &str, requests: Vec<Q>) -> Result<Vec<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            let requests = Request::new(futures_util::stream::iter(requests));
            let path = format!("{SERVICE}/{method}").parse().unwrap();
            let answers = grpc.streaming(requests, path, ProstCodec::<Q, A>::default()).await?;
            let (mut answers, mut all) = (answers.into_inner(), Vec::new());
            while let Some(answer) = answers.message().await? {
                all.push(answer);
            }
            Ok(all)
        })
    }
}

/// A connection of HTTP/2, on which calls consist of what a test makes of them.
pub struct RawClient {
    runtime: Arc<Runtime>,
    sender: SendRequest<Bytes>,
}

/// A call that has been begun.
pub struct RawCall {
    runtime: Arc<Runtime>,
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = Arc::new(Runtime::new().unwrap());
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(async move { drop(connection.await) });
            sender
        });
        Self { runtime, sender }
    }

    /// Begins a call with these headers.
    pub fn begin(&self, path: &str, headers: &[(&str, &str)]) -> RawCall {
        let mut request = http::Request::post(format!("http://x{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (response, body) = self.runtime.block_on(async {
            let mut sender = self.sender.clone().ready().await.unwrap();
            sender.send_request(request.body(()).unwrap(), false).unwrap()
        });
        RawCall { runtime: self.runtime.clone(), response, body }
    }
}

impl RawCall {
    /// Sends bytes of the body; what the server does not take any more is left.
    pub fn send(&mut self, bytes: &[u8], is_last: bool) {
        let _guard = self.runtime.enter();
        let _ = self.body.send_data(Bytes::copy_from_slice(bytes), is_last);
    }

    /// The status that ends the call; a stream that is reset has none of its own.
    pub fn status(self) -> Status {
        self.runtime.block_on(async {
            let ended = tokio::time::timeout(Duration::from_secs(60), status(self.response));
            ended.await.expect("every call ends").unwrap_or_else(|e| Status::new(Code::Unknown, e.to_string()))
        })
    }
}

async fn status(response: ResponseFuture) -> Result<Status, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    if !head.status.is_success() {
        return Ok(Status::new(Code::Unknown, format!("HTTP {}", head.status)));
    }
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Ok(status);
    }
    let trailers = read(&mut body).await?.unwrap_or_default();
    Ok(Status::from_header_map(&trailers).unwrap_or_else(|| Status::new(Code::Unknown, "no status")))
}

async fn read(body: &mut RecvStream) -> Result<Option<HeaderMap>, h2::Error> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    body.trailers().await
}

/// A message behind its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}
