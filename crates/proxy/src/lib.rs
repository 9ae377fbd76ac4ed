//! The phases that both proxies compose: accept, handshake, identify, peek, authorize, forward, reply, record.
