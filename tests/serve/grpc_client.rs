//! gRPC's clients: tonic's, and one that sends just the frames it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use self::inference::infer_parameter::ParameterChoice;
use self::inference::model_infer_request::InferInputTensor;
use self::inference::{InferParameter, ModelInferRequest, ModelInferResponse};

use crate::server::{expected, picture};

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

/// The header of every call.
pub const GRPC: (&str, &str) = ("content-type", "application/grpc");

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

/// A call that has been begun, where the connection was still there.
pub struct RawCall {
    runtime: Arc<Runtime>,
    begun: Result<(ResponseFuture, SendStream<Bytes>), h2::Error>,
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 65_535)
    }

    /// A client that lets so many bytes of each answer come until it says that it takes more.
    pub fn with_window(address: SocketAddr, bytes: u32) -> Self {
        let runtime = Arc::new(Runtime::new().unwrap());
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let client = h2::client::Builder::new().initial_window_size(bytes).handshake(stream);
            let (sender, connection) = client.await.unwrap();
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
        let begun = self.runtime.block_on(async {
            let mut sender = self.sender.clone().ready().await?;
            sender.send_request(request.body(()).unwrap(), false)
        });
        RawCall { runtime: self.runtime.clone(), begun }
    }
}

impl RawCall {
    /// Sends bytes of the body; what the server does not take any more is left.
    pub fn send(&mut self, bytes: &[u8], is_last: bool) {
        let _guard = self.runtime.enter();
        if let Ok((_, body)) = &mut self.begun {
            let _ = body.send_data(Bytes::copy_from_slice(bytes), is_last);
        }
    }

    /// The status that ends the call; a stream that is reset has none of its own.
    pub fn status(self) -> Status {
        let ended = self.begun.and_then(|(response, _body)| {
            let ended = async { tokio::time::timeout(Duration::from_secs(60), status(response)).await };
            self.runtime.block_on(ended).expect("every call ends")
        });
        ended.unwrap_or_else(|e| Status::new(Code::Unknown, e.to_string()))
    }

    /// Waits until the answer begins, and takes nothing more of it.
    pub fn head(self) -> RawAnswer {
        let (response, _body) = self.begun.unwrap();
        let body = self.runtime.block_on(response).unwrap().into_body();
        RawAnswer { runtime: self.runtime, body }
    }
}

/// An answer that has begun.
pub struct RawAnswer {
    runtime: Arc<Runtime>,
    body: RecvStream,
}

impl RawAnswer {
    /// Takes so many bytes a second for a while, or until there are no more; how many came.
    pub fn take_slowly(&mut self, bytes_per_second: usize, time: Duration) -> usize {
        const STEP: Duration = Duration::from_millis(50);
        let body = &mut self.body;
        self.runtime.block_on(async {
            let (begin, mut taken) = (Instant::now(), 0);
            let mut granted = 0;
            while begin.elapsed() < time {
                let data = tokio::time::timeout(STEP, body.data()).await;
                match data {
                    Ok(Some(Ok(data))) => taken += data.len(),
                    Ok(_) => break,
                    Err(_) => {}
                }
                let allowed = (begin.elapsed().as_secs_f64() * bytes_per_second as f64) as usize;
                let more = allowed.min(taken).saturating_sub(granted);
                if more > 0 && body.flow_control().release_capacity(more).is_ok() {
                    granted += more;
                }
            }
            taken
        })
    }

    /// Takes the rest; the code that ends it.
    pub fn code(mut self) -> Code {
        let trailers = self.runtime.block_on(read(&mut self.body));
        let status = trailers.ok().flatten().and_then(|trailers| Status::from_header_map(&trailers));
        status.map_or(Code::Unknown, |status| status.code())
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

/// Values in memory.
pub fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Likewise.
pub fn integers(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor that is elsewhere.
pub fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..<_>::default() }
}

/// A request with its tensors in memory.
pub fn raw_request(inputs: Vec<(InferInputTensor, Vec<u8>)>) -> ModelInferRequest {
    let (inputs, raw): (Vec<_>, Vec<_>) = inputs.into_iter().map(|(input, raw)| (input, Bytes::from(raw))).unzip();
    ModelInferRequest { model_name: "tilesight".into(), inputs, raw_input_contents: raw, ..<_>::default() }
}

/// A request for these files.
pub fn pictures(files: &[Vec<u8>]) -> ModelInferRequest {
    let raw = files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes()[..], file].concat()).collect();
    raw_request(vec![(input("image", "BYTES", &[files.len() as i64]), raw)])
}

/// A parameter that is text.
pub fn text(value: &str) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(value.into())) }
}

/// Asks for embeddings.
pub fn infer(client: &Client, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    client.ask("ModelInfer", request)
}

/// The server still answers, and rightly.
#[track_caller]
pub fn assert_serves(client: &Client) {
    let response = infer(client, pictures(&[picture("image0.png")])).unwrap();
    assert!(response.raw_output_contents[0] == bytes_of(&expected(&["image0.png"])));
}
