//! What conditions of policy may look at in a message, read by the same code in both proxies, and only when asked for.

use std::net::IpAddr;
use std::time::SystemTime;

use outrigger_mcp::catalog::Item;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_mcp::json::{Span, member};
use outrigger_policy::{Annotations, CallFacts, Circumstances};

/// A call, or an entry of a list.
pub struct Asked<'a, H> {
    /// The call; none while a list is made.
    pub call: Option<(&'a Message, IpAddr)>,
    /// Finds the hints of what is asked for.
    pub hints: H,
}

impl<H: Fn() -> Annotations> Circumstances for Asked<'_, H> {
    fn annotations(&self) -> Option<Annotations> {
        Some((self.hints)())
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        let (message, source) = self.call?;
        let arguments = message.params().get(Param::Arguments).map(|span| message.raw(span));
        Some(CallFacts { arguments, time: SystemTime::now(), source: Some(source) })
    }
}

/// The hints in a definition. What no list has is taken for a tool without hints, which may do anything.
pub fn hints(item: Option<&Item>) -> Annotations {
    let of = |item: &Item| {
        let whole = Span { start: 0, end: u32::try_from(item.raw().len()).ok()? };
        let span = member(item.raw(), whole, "annotations")?;
        Some(Annotations::of(Some(span.of(item.raw()))))
    };
    item.and_then(of).unwrap_or_default()
}
