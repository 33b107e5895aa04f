//! One HTTP/1.1 exchange over any byte stream, bounded in time and size. Used towards the cluster manager and the
//! supervisor (unix sockets), and by [`crate::client`] (unix socket or TLS).

use futures_util::stream::try_unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Nobody listens.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The stream ended or broke HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Too slow.
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Bytes of a file that are in memory at once.
const PIECE_BYTES: usize = 64 << 10;

/// The bytes of a request.
type Content = UnsyncBoxBody<Bytes, std::io::Error>;

/// What a request carries.
pub(crate) struct Body {
    content: Content,
    len_bytes: u64,
    /// Its media type.
    kind: &'static str,
}

impl Body {
    /// What is in memory already.
    pub(crate) fn of(content: Vec<u8>, kind: &'static str) -> Self {
        Self { len_bytes: content.len() as u64, content: whole(content), kind }
    }

    /// A file of `len_bytes`, read piece by piece.
    pub(crate) fn of_file(file: File, len_bytes: u64, kind: &'static str) -> Self {
        let pieces = try_unfold(file, async |mut file| {
            let mut piece = vec![0; PIECE_BYTES];
            let read_bytes = file.read(&mut piece).await?;
            piece.truncate(read_bytes);
            Ok((read_bytes > 0).then(|| (Frame::data(Bytes::from(piece)), file)))
        });
        Self { content: StreamBody::new(pieces).boxed_unsync(), len_bytes, kind }
    }
}

fn whole(content: Vec<u8>) -> Content {
    Full::new(Bytes::from(content)).map_err(|never| match never {}).boxed_unsync()
}

/// Builds a request with an optional body.
pub(crate) fn request(
    method: Method,
    host: &str,
    path: &str,
    authorization: Option<&str>,
    body: Option<Body>,
) -> Result<Request<Content>, HttpError> {
    let mut builder =
        Request::builder().method(method).uri(path).header("host", host).header("accept", "*/*");
    if let Some(value) = authorization {
        builder = builder.header("authorization", value);
    }
    if let Some(body) = &body {
        builder = builder.header("content-type", body.kind).header("content-length", body.len_bytes);
    }
    builder
        .body(body.map_or_else(|| whole(Vec::new()), |body| body.content))
        .map_err(|e| HttpError::Broken(e.to_string()))
}

/// Sends `request` on `stream` and reads an answer of at most `most` bytes.
pub(crate) async fn exchange<S>(
    stream: S,
    request: Request<Content>,
    most: usize,
) -> Result<Answered, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: &dyn std::fmt::Display| HttpError::Broken(e.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let talk = async move {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect().await.map_err(|e| broken(&e))?;
        Ok(Answered { status, body: body.to_bytes() })
    };
    // The connection is polled beside the exchange and dropped with it: nothing outlives the call.
    tokio::pin!(talk);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(e) => Err(broken(&e)),
        },
    }
}

/// One exchange over the unix socket at `path`.
pub(crate) async fn over_unix(
    path: &Path,
    request: Request<Content>,
    most: usize,
    time: Duration,
) -> Result<Answered, HttpError> {
    let work = async {
        let stream = UnixStream::connect(path).await.map_err(HttpError::Connect)?;
        exchange(stream, request, most).await
    };
    tokio::time::timeout(time, work).await.unwrap_or(Err(HttpError::Slow(time)))
}
