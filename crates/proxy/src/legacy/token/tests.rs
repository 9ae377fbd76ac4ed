//! Tokens: what goes in comes out, and nothing else opens.

use super::*;

fn client(capabilities: &str) -> Client {
    Client {
        revision: Revision::V2025_06_18,
        capabilities: Bytes::copy_from_slice(capabilities.as_bytes()),
        info: Bytes::from_static(br#"{"name":"c","version":"1"}"#),
        log_level: None,
    }
}

fn ada() -> Principal {
    Principal::user("ada").unwrap()
}

fn token(route: Route, capabilities: &str) -> Token {
    let lists = [ListKind::Tools, ListKind::Resources];
    Token::begin(SessionKey::random().unwrap(), &ada(), &route, &client(capabilities), &lists)
}

#[test]
fn what_goes_in_comes_out() {
    let keys = Keys::random().unwrap();
    for route in [Route::Merged, Route::Service("fs".into())] {
        let token = token(route, r#"{"roots":{"listChanged":true}}"#);
        let id = token.seal(&keys).unwrap();
        assert!(minted(&id) && id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{id}");
        let read = Token::open(&keys, &id).unwrap();
        assert_eq!((read.key, &read.route, &read.lists), (token.key, &token.route, &token.lists));
        let (read_client, client) = (read.client.as_ref().unwrap(), token.client.as_ref().unwrap());
        assert_eq!(read_client.revision, client.revision);
        assert_eq!((&read_client.capabilities, &read_client.info), (&client.capabilities, &client.info));
        assert!(read.is_of(&ada()) && !read.is_of(&Principal::user("bob").unwrap()));
        assert!(!read.is_over(Duration::from_secs(60)) && read.is_over(Duration::ZERO));
        assert!(Token::open(&Keys::random().unwrap(), &id).is_none(), "another key");
        let tag = token.key.tag(&ada());
        assert_eq!(read.key.tag(&ada()), tag);
        assert!(tag.split('.').skip(1).all(|part| part.len() == 32 && !id.contains(part)), "{tag}");
    }
}

#[test]
fn a_client_that_says_much_of_itself_has_a_session_of_one_replica() {
    let keys = Keys::random().unwrap();
    for (size, carried) in [(2000, true), (2900, true), (3100, false), (5000, false), (500_000, false)] {
        let token = token(Route::Merged, &format!(r#"{{"x":"{}"}}"#, "y".repeat(size)));
        let id = token.seal(&keys).unwrap();
        assert!(id.len() <= MAX_TOKEN && minted(&id), "{size}");
        let read = Token::open(&keys, &id).unwrap();
        assert_eq!((read.client.is_some(), read.key), (carried, token.key), "{size}");
    }
}

#[test]
fn no_bit_can_be_changed() {
    let keys = Keys::random().unwrap();
    let id = token(Route::Merged, "{}").seal(&keys).unwrap();
    let sealed = URL_SAFE_NO_PAD.decode(id.strip_prefix(MARK).unwrap()).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut bent = sealed.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(Token::open(&keys, &format!("{MARK}{}", URL_SAFE_NO_PAD.encode(bent))).is_none(), "bit {bit}");
    }
    for at in 0..id.len() {
        assert!(Token::open(&keys, &id[..at]).is_none(), "cut at {at}");
        for other in ["A", "B", "-", ".", "=", " ", "\u{e9}"] {
            let mut bent = id.clone();
            bent.replace_range(at..=at, other);
            assert!(bent == id || Token::open(&keys, &bent).is_none(), "{other} at {at}");
        }
    }
    for more in ["=", "A", "AAAA", " "] {
        assert!(Token::open(&keys, &format!("{id}{more}")).is_none());
    }
}

#[test]
fn what_is_not_ours_is_not_taken_for_it() {
    let keys = Keys::random().unwrap();
    let long = format!("{MARK}{}", "A".repeat(MAX_TOKEN));
    for other in ["", "s1", "s2.AAAA", "0123456789012345678901234567890123456789", "s1.a b", "s1.\u{e9}", long.as_str()]
    {
        assert!(!minted(other) && Token::open(&keys, other).is_none(), "{other}");
    }
    assert!(Token::open(&keys, MARK).is_none());
    // Sealed by us, and still no token.
    for text in [&b""[..], b"x", &[0; 41], &[255; 60]] {
        let id = format!("{MARK}{}", URL_SAFE_NO_PAD.encode(keys.seal(text.to_vec()).unwrap()));
        assert!(Token::open(&keys, &id).is_none());
    }
}
