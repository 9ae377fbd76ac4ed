//! One HTTP/1.1 connection to an upstream.
//!
//! The connection has no task of its own: whoever uses it drives it, from the same poll that wants the response head or
//! the next piece of body. hyper's usual arrangement (a driver task that hands over every piece through a channel)
//! costs two wake-ups per piece, which is what makes a stream of small events expensive. Dropping the user closes the
//! socket, which is how a cancelled call reaches an HTTP/1.1 upstream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::unconstrained;

use super::PoolSettings;
use super::error::Attempt;
use crate::body::OutBody;
use crate::peers::Cuttable;

/// The most that a connection reads ahead of its user, in bytes. hyper's own 400 KiB times the connections is memory
/// that a fast upstream would fill.
const READ_BUFFER: usize = 64 * 1024;

/// A connection that carries one request at a time.
pub(super) struct H1 {
    sender: SendRequest<OutBody>,
    /// `None` once the connection has ended; what it read before that is still in the response body.
    driver: Option<Connection<TokioIo<Cuttable>, OutBody>>,
}

impl H1 {
    pub(super) async fn handshake(stream: Cuttable, settings: &PoolSettings) -> hyper::Result<Self> {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(settings.max_head_bytes)
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut this = Self { sender, driver: Some(driver) };
        // One poll lets hyper ask for its first request.
        this.is_usable();
        Ok(this)
    }

    /// Whether a request can be sent now. Looks at the socket, so that a peer that closed an idle connection is noticed
    /// before a request is written to it.
    pub(super) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its response. Dropping the future drops the connection.
    pub(super) async fn send(
        mut self: Box<Self>,
        request: Request<OutBody>,
    ) -> Result<(Box<Self>, Response<Incoming>), Attempt> {
        let response = {
            // Outside tokio's cooperative budget: running out of it wakes the waker it is given, here the deaf one.
            let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
            let driver = &mut self.driver;
            poll_fn(|cx| {
                drive(driver, cx);
                // Only the driver can complete the answer, and it was polled just now with the real waker.
                answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })
            .await?
        };
        Ok((self, response))
    }

    /// Drives the connection, then takes what it delivered to `body`.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.drive(cx);
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    /// Closes an idle connection politely (TLS `close_notify`), as far as that is possible without waiting.
    pub(super) fn close(self) {
        let Self { sender, mut driver } = self;
        drop(sender);
        drive(&mut driver, &mut Context::from_waker(Waker::noop()));
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }
}

fn drive(driver: &mut Option<Connection<TokioIo<Cuttable>, OutBody>>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && let Poll::Ready(end) = Pin::new(connection).poll(cx)
    {
        // Whoever waits for a message gets the error through its channel; an idle connection has nobody to tell.
        if let Err(error) = end {
            tracing::debug!(%error, "upstream connection ended");
        }
        *driver = None;
    }
}
