//! A listen that the server itself serves: narrowed by policy, passed on, ended by us when we drain.

use bytes::Bytes;
use http_body_util::BodyExt;
use outrigger_mcp::{
    edit::Edits,
    envelope::{Message, Param},
    json::{Span, decode_string, elements, member},
    sse,
};
use outrigger_proxy::{body::OutBody, pool::PooledBody};
use outrigger_runtime::drain::DrainWatcher;

use super::ended;

/// Takes resources that the caller may not read out of a listen that is passed on.
pub fn narrow(request: &Message, visible: impl Fn(&str) -> bool, edits: &mut Edits) {
    let body = request.body();
    let list = request.params().get(Param::Notifications).and_then(|span| member(body, span, "resourceSubscriptions"));
    let Some((list, uris)) = list.and_then(|list| Some((list, elements(body, list)?))) else { return };
    let may = |span: &&Span| decode_string(request.raw(**span)).is_some_and(|uri| visible(&uri));
    let kept: Vec<&[u8]> = uris.iter().filter(may).map(|span| request.raw(*span)).collect();
    if kept.len() < uris.len() {
        edits.replace(list, [b"[", kept.join(&b","[..]).as_slice(), b"]"].concat());
    }
}

/// The message that ends a listen.
pub fn closing(id: &Bytes) -> Bytes {
    ended(id, None)
}

/// The stream of a listen that the server itself serves, passed on as it comes and ended by us when we drain, with the
/// farewell.
pub fn passed_on(farewell: Option<Bytes>, mut body: PooledBody, drain: DrainWatcher) -> OutBody {
    let (sender, out) = OutBody::channel(64);
    tokio::spawn(async move {
        let drained = drain.signaled();
        tokio::pin!(drained);
        // The last bytes that were sent: our own event must not cut one of the server's in two.
        let mut tail: Vec<u8> = b"\n\n".to_vec();
        loop {
            let between = tail.ends_with(b"\n\n") || tail.ends_with(b"\r\n\r\n");
            let frame = tokio::select! {
                () = sender.gone() => return,
                () = &mut drained, if between => {
                    if let Some(farewell) = &farewell {
                        let _ = sender.send(sse::event(farewell)).await;
                    }
                    let _ = sender.finish().await;
                    return;
                }
                frame = body.frame() => frame,
            };
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    tail.extend_from_slice(data.get(data.len().saturating_sub(4)..).unwrap_or_default());
                    tail.drain(..tail.len().saturating_sub(4));
                    if sender.send(data).await.is_err() {
                        return;
                    }
                }
                None => {
                    let _ = sender.finish().await;
                    return;
                }
                Some(Err(_)) => return,
            }
        }
    });
    out
}
