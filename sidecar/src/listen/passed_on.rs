//! What the server itself serves: a listen, narrowed by policy, and streams that are passed on as bytes.

use http_body_util::BodyExt;
use outrigger_mcp::{
    bridge::meta_keys::mesh_only,
    edit::{Edits, rebuild_object},
    envelope::{Message, Param},
    json::{Span, decode_string, elements, member, members},
};
use outrigger_proxy::{body::OutBody, pool::PooledBody};
use outrigger_runtime::drain::DrainWatcher;

/// The member that lists resources.
const RESOURCES: &str = "resourceSubscriptions";

/// Takes resources that the caller may not read out of a listen that is passed on, those over a number, and what only the mesh
/// understands. Returns whether there were more than that number.
pub fn narrow(request: &Message, most: usize, visible: impl Fn(&str) -> bool, edits: &mut Edits) -> bool {
    let body = request.body();
    let Some(wanted) = request.params().get(Param::Notifications) else { return false };
    let ours = members(body, wanted).into_iter().any(|(key, _)| mesh_only(&key.decode(body)));
    let uris = member(body, wanted, RESOURCES).and_then(|list| elements(body, list));
    let cut = uris.as_ref().is_some_and(|uris| uris.len() > most);
    let may = |span: &&Span| decode_string(request.raw(**span)).is_some_and(|uri| visible(&uri));
    let kept = |uris: &Vec<Span>| uris.iter().take(most).filter(may).map(|span| request.raw(*span)).collect::<Vec<_>>();
    let kept = uris.as_ref().map(kept);
    if !ours && uris.as_ref().map(Vec::len) == kept.as_ref().map(Vec::len) {
        return false;
    }
    let kept = kept.map(|kept| [b"[", kept.join(&b","[..]).as_slice(), b"]"].concat());
    let set: Vec<_> = kept.iter().map(|list| (RESOURCES, list.as_slice())).collect();
    edits.replace(wanted, rebuild_object(body, wanted, mesh_only, &set));
    cut
}

/// A stream of the server's session, passed on as it comes and ended by us when we drain.
pub fn passed_on(mut body: PooledBody, drain: DrainWatcher) -> OutBody {
    let (sender, out) = OutBody::channel(64);
    tokio::spawn(async move {
        let drained = drain.signaled();
        tokio::pin!(drained);
        // The last bytes that were sent: the end must not cut an event in two.
        let mut tail: Vec<u8> = b"\n\n".to_vec();
        loop {
            let between = tail.ends_with(b"\n\n") || tail.ends_with(b"\r\n\r\n");
            let frame = tokio::select! {
                () = sender.gone() => return,
                () = &mut drained, if between => {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn narrowed(filter: &str) -> String {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"notifications":{filter}}}}}"#
        );
        let request = Message::parse(Bytes::from(text)).unwrap();
        let mut edits = Edits::new();
        let cut = narrow(&request, 3, |uri| uri != "a:hidden", &mut edits);
        assert_eq!(cut, filter.contains("a:4"));
        let got = Message::parse(edits.apply_flat(request.body())).unwrap();
        let span = got.params().get(Param::Notifications).unwrap();
        String::from_utf8(got.raw(span).to_vec()).unwrap()
    }

    #[test]
    fn a_server_is_asked_for_what_the_caller_may_read_and_for_nothing_of_ours() {
        let untouched = r#"{ "toolsListChanged":true,"resourceSubscriptions":["a:1"] }"#;
        assert_eq!(narrowed(untouched), untouched);
        let hidden = r#"{"resourceSubscriptions":["a:1","a:hidden"],"toolsListChanged":true}"#;
        assert_eq!(narrowed(hidden), r#"{"toolsListChanged":true,"resourceSubscriptions":["a:1"]}"#);
        let many = r#"{"resourceSubscriptions":["a:1","a:2","a:3","a:4"]}"#;
        assert_eq!(narrowed(many), r#"{"resourceSubscriptions":["a:1","a:2","a:3"]}"#);
        let ours = r#"{"resourceSubscriptions":["a:1"],"outrigger.dev/session":true}"#;
        assert_eq!(narrowed(ours), r#"{"resourceSubscriptions":["a:1"]}"#);
    }
}
