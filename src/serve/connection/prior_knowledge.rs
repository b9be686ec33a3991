//! The answer to a client that begins HTTP/2 at the address of HTTP/1.1 (RFC 9113, 3.3), which would otherwise see nothing but
//! the connection's end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const REASON: &str = "This address speaks HTTP/1.1; gRPC, over HTTP/2, has the address that --grpc-listen names.\n";

/// How long the client has to read it: what it has sent meanwhile must be taken, or its system throws the answer away.
const LINGER: Duration = Duration::from_secs(1);

/// Answers and closes.
pub(super) async fn refuse(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-content-type-options: nosniff\r\n\r\n{REASON}",
        REASON.len()
    );
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // What goes wrong is the client's: it has left, or says too much.
    drop(timeout(LINGER, say).await);
}
