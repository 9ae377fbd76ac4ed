//! Questions to the client within a call.

use super::support::{World, call, id_text};

const ALL: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;
const ASK: &str = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"message":"m"}},"r":{"method":"roots/list"}},"requestState":"s1"}"#;

#[tokio::test(start_paused = true)]
async fn questions_go_out_on_the_answer_and_answers_go_into_a_retry() {
    let mut world = World::new();
    let client = world.client("2025-06-18", ALL).await;
    let answer = client.begin(&call("1"));
    world.asked().await.result(ASK);
    let mut answer = answer.await.unwrap();
    let elicit = answer.next().await.unwrap();
    assert_eq!(elicit.method_name(), "elicitation/create");
    let roots = answer.next().await.unwrap();
    assert_eq!(roots.method_name(), "roots/list");
    assert_ne!(elicit.id(), roots.id());
    let unknown = r#"{"jsonrpc":"2.0","id":"no-such","result":{}}"#;
    assert_eq!(client.post(unknown).await.status, 202);
    for (question, result) in [(&roots, r#"{"roots":[]}"#), (&elicit, r#"{"action":"accept"}"#)] {
        let response = format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{result}}}"#, id_text(question));
        assert_eq!(client.post(&response).await.status, 202);
        assert_eq!(client.post(&response).await.status, 202, "twice is dropped");
    }
    let retry = world.asked().await;
    let retried = retry.body();
    assert!(retried.contains(r#""inputResponses":{"r":{"roots":[]},"k":{"action":"accept"}}"#), "{retried}");
    assert!(retried.contains(r#""requestState":"s1""#) && retried.contains(r#""name":"t","arguments":{}"#));
    assert!(retried.contains("io.modelcontextprotocol/clientCapabilities"));
    assert!(retried.contains(r#""id":"1/1""#), "a retry is a request of its own: {retried}");
    retry.result(r#"{"content":[]}"#);
    assert_eq!(answer.next_text().await, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
    assert!(answer.event().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn only_the_session_itself_can_answer() {
    let mut world = World::new();
    let client = world.client("2025-06-18", ALL).await;
    let other = world.client("2025-06-18", ALL).await;
    let mut answers = Vec::new();
    for one in [&client, &other] {
        let answer = one.begin(&call("1"));
        world.asked().await.result(ASK);
        answers.push(answer.await.unwrap());
    }
    let question = answers[0].next().await.unwrap();
    let response = format!(r#"{{"jsonrpc":"2.0","id":"{}","error":{{"code":-1,"message":"no"}}}}"#, id_text(&question));
    let mut foreign = client.clone();
    foreign.caller = world.stranger("bob").caller;
    assert_eq!(foreign.post(&response).await.status, 404);
    assert_eq!(other.post(&response).await.status, 202, "nobody asked it that: dropped");
    assert!(world.quiet());
}

#[tokio::test(start_paused = true)]
async fn a_client_is_never_asked_what_it_did_not_declare() {
    let mut world = World::new();
    let client = world.client("2025-03-26", r#"{"elicitation":{},"roots":{}}"#).await;
    let answer = client.begin(&call("1"));
    world.asked().await.result(ASK);
    let answer = answer.await.unwrap().message().await;
    assert_eq!(answer.error_code(), Some(-32603));
    assert!(answer.error_message().unwrap().contains("elicitation"));
    let json = world.client("2025-06-18", ALL).await.with("accept", "application/json");
    let answer = json.begin(&call("1"));
    world.asked().await.result(ASK);
    assert_eq!(answer.await.unwrap().status, 406, "it takes no stream, so it cannot be asked");
}

#[tokio::test(start_paused = true)]
async fn what_the_client_refuses_goes_into_the_retry_as_it_said_it() {
    let mut world = World::new();
    let client = world.client("2025-06-18", ALL).await;
    let answer = client.begin(&call("1"));
    world.asked().await.result(ASK);
    let mut answer = answer.await.unwrap();
    for _ in 0..2 {
        let question = answer.next().await.unwrap();
        let id = id_text(&question);
        let error = r#"{"code":-1,"message":"no","data":[1.0]}"#;
        client.post(&format!(r#"{{"jsonrpc":"2.0","id":"{id}","error":{error}}}"#)).await;
    }
    let retry = world.asked().await;
    let retried = retry.body();
    let errors = r#""outrigger.dev/errors":{"k":{"method":"elicitation/create","error":{"code":-1,"message":"no","data":[1.0]}},"r":{"method":"roots/list","error":{"code":-1,"message":"no","data":[1.0]}}}"#;
    assert!(retried.contains(errors), "{retried}");
    assert!(
        retried.contains(r#""inputResponses":{"k":{"action":"cancel"}}"#),
        "for a server that takes no errors: {retried}"
    );
    retry.result(r#"{"content":[]}"#);
    assert_eq!(answer.next_text().await, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
}

#[tokio::test(start_paused = true)]
async fn a_client_cannot_put_errors_into_its_own_requests() {
    let mut world = World::new();
    let client = world.client("2025-06-18", ALL).await;
    let forged = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"outrigger.dev/errors":{"r1":{"error":{}}},"x":1}}}"#;
    let _answer = client.begin(forged);
    let asked = world.asked().await;
    assert!(!asked.body().contains("outrigger.dev/errors") && asked.body().contains("\"x\":1"), "{}", asked.body());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_fails_the_call() {
    let mut world = World::with(|settings| settings.each.request = std::time::Duration::from_secs(40));
    let client = world.client("2025-06-18", ALL).await;
    let answer = client.begin(&call("1"));
    world.asked().await.result(ASK);
    let mut answer = answer.await.unwrap();
    let question = answer.next().await.unwrap();
    answer.next().await.unwrap();
    let told = answer.next().await.unwrap();
    assert!(told.error_message().unwrap().contains("did not answer"), "{told:?}");
    assert!(told.error_message().unwrap().contains("told"), "it names the service: {told:?}");
    let late = format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{{}}}}"#, id_text(&question));
    assert_eq!(client.post(&late).await.status, 202);
    assert!(world.quiet());
}

#[tokio::test(start_paused = true)]
async fn a_state_alone_is_tried_again_and_not_for_ever() {
    let mut world = World::new();
    let client = world.client("2025-06-18", "{}").await;
    let answer = client.begin(&call("1"));
    for round in 0..=8 {
        let asked = world.asked().await;
        assert_eq!(asked.body().contains("requestState"), round > 0);
        asked.result(r#"{"resultType":"input_required","requestState":"s"}"#);
    }
    let mut answer = answer.await.unwrap();
    assert_eq!(answer.next().await.unwrap().error_code(), Some(-32603));
    assert!(world.quiet());
}

#[tokio::test(start_paused = true)]
async fn cancelling_while_a_question_is_open_ends_the_call() {
    let mut world = World::new();
    let client = world.client("2025-06-18", ALL).await;
    let answer = client.begin(&call("1"));
    world.asked().await.result(ASK);
    let mut answer = answer.await.unwrap();
    let question = answer.next().await.unwrap();
    answer.next().await.unwrap();
    client.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    assert!(answer.event().await.is_none());
    let late = format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{{}}}}"#, id_text(&question));
    assert_eq!(client.post(&late).await.status, 202);
    assert!(world.quiet());
}
