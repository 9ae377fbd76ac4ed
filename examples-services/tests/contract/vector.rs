//! The contract of `vector`: documents added in one call are found in the next.

use serde_json::json;

use crate::support::{Era, HttpService, call, error, everywhere, prompt, read, stdio, structured};

#[tokio::test]
async fn adds_and_finds_documents_in_every_era_and_transport() {
    everywhere(&["vector"], async |client| {
        let tools = client.list_all_tools().await.unwrap();
        let hint = |name: &str| {
            let tool = tools.iter().find(|tool| tool.name == name).unwrap();
            assert!(tool.output_schema.is_some(), "{name}");
            tool.annotations.as_ref().unwrap().read_only_hint
        };
        assert_eq!((hint("addDocument"), hint("search")), (Some(false), Some(true)));

        let added = call(client, "addDocument", json!({"id": "boats", "text": "outrigger canoe boat"})).await;
        assert_eq!(structured(added), json!({"id": "boats", "replaced": false, "documents": 1}));
        let arguments = json!({"id": "cars/1", "text": "a fast car", "metadata": {"year": 1999}});
        call(client, "addDocument", arguments.clone()).await;
        let again = structured(call(client, "addDocument", arguments).await);
        assert_eq!(again, json!({"id": "cars/1", "replaced": true, "documents": 2}));

        let found = structured(call(client, "search", json!({"query": "Fast CAR", "k": 1})).await);
        let hits = found["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 1);
        assert_eq!((&hits[0]["id"], &hits[0]["metadata"]), (&json!("cars/1"), &json!({"year": 1999})));
        assert!((hits[0]["score"].as_f64().unwrap() - 2.0 / 6f64.sqrt()).abs() < 1e-9, "{hits:?}");

        let uris: Vec<String> =
            client.list_all_resources().await.unwrap().iter().map(|resource| resource.uri.clone()).collect();
        assert_eq!(uris, ["vector://documents/boats", "vector://documents/cars%2F1"]);
        let contents = read(client, &uris[1]).await.unwrap();
        assert_eq!(contents["contents"][0]["text"], "a fast car");

        let asked = prompt(client, "answerFromDocuments", json!({"question": "which canoe?"})).await.to_string();
        assert!(asked.contains("[boats]") && !asked.contains("cars/1"), "{asked}");
    })
    .await;
}

#[tokio::test]
async fn limits_and_wrong_arguments_are_refused() {
    everywhere(&["vector", "--max-documents", "1"], async |client| {
        call(client, "addDocument", json!({"id": "a", "text": "word"})).await;
        for (arguments, reason) in [
            (json!({"id": "b", "text": "word"}), "full (1 documents"),
            (json!({"id": "", "text": "word"}), "1 to 200"),
            (json!({"id": "a", "text": "x".repeat(65_537)}), "65537 bytes"),
            (json!({"id": "a", "text": "?"}), "no word"),
        ] {
            let message = error(&call(client, "addDocument", arguments).await);
            assert!(message.contains(reason), "{message}");
        }
        for k in [0, 101] {
            let message = error(&call(client, "search", json!({"query": "word", "k": k})).await);
            assert!(message.contains("give 1 to 100"), "{message}");
        }
        let message = error(&call(client, "search", json!({"query": "word", "k": -1})).await);
        assert!(message.contains("`-1`"), "{message}");
        assert!(read(client, "vector://documents/none").await.is_err());
    })
    .await;
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let client = stdio(Era::Modern, &["vector"], &[]).await;
    for number in 0..201 {
        call(&client, "addDocument", json!({"id": format!("d{number:03}"), "text": "word"})).await;
    }
    let first = client.list_resources(None).await.unwrap();
    assert_eq!(first.resources.len(), 100);
    assert!(first.next_cursor.is_some());
    let all = client.list_all_resources().await.unwrap();
    assert_eq!(all.len(), 201);
    assert!(all.is_sorted_by(|a, b| a.uri < b.uri));
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn http_clients_of_both_eras_share_one_index() {
    let service = HttpService::start(&["vector"]).await;
    let (legacy, modern) = (service.connect(Era::Legacy).await, service.connect(Era::Modern).await);
    call(&legacy, "addDocument", json!({"id": "a", "text": "shared"})).await;
    let found = structured(call(&modern, "search", json!({"query": "shared"})).await);
    assert_eq!(found["hits"][0]["id"], "a");
    legacy.cancel().await.unwrap();
    modern.cancel().await.unwrap();
}
