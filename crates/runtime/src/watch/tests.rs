//! Changes are made between two polls of a paused clock; each wait is for a poll, not for time.

use std::os::unix::fs::symlink;

use rustix::process::{Signal as Number, getpid, kill_process};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn watcher(paths: &[&PathBuf]) -> FileWatcher {
    FileWatcher::new(paths.iter().map(|path| (*path).clone()), DEFAULT_INTERVAL).unwrap()
}

/// Whether ten polls pass without a change.
async fn quiet(watcher: &mut FileWatcher) -> bool {
    tokio::time::timeout(DEFAULT_INTERVAL * 10, watcher.changed()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn an_edit_names_the_file_once() {
    let folder = Folder::new();
    let (config, policy) = (folder.write("config", "a"), folder.write("policy", "b"));
    let mut watcher = watcher(&[&config, &policy]);
    assert!(quiet(&mut watcher).await);
    folder.write("policy", "c");
    assert_eq!(watcher.changed().await, Change::Files(vec![policy]));
    assert!(quiet(&mut watcher).await);
}

#[tokio::test(start_paused = true)]
async fn the_same_contents_written_again_are_no_change() {
    let folder = Folder::new();
    let config = folder.write("config", "a");
    let mut watcher = watcher(&[&config]);
    folder.write("config", "a");
    assert!(quiet(&mut watcher).await);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_goes_and_comes_is_a_change_each_time() {
    let folder = Folder::new();
    let config = folder.write("config", "a");
    let mut watcher = watcher(&[&config]);
    fs::remove_file(&config).unwrap();
    assert_eq!(watcher.changed().await, Change::Files(vec![config.clone()]));
    folder.write("config", "a");
    assert_eq!(watcher.changed().await, Change::Files(vec![config]));
}

#[tokio::test(start_paused = true)]
async fn a_directory_swapped_above_the_file_is_seen() {
    // As kubelet updates a mounted secret: cert -> ..data/cert, and ..data is renamed over.
    let folder = Folder::new();
    for (version, text) in [("v1", "old"), ("v2", "new")] {
        fs::create_dir(folder.0.path().join(version)).unwrap();
        folder.write(&format!("{version}/cert"), text);
    }
    let data = folder.0.path().join("..data");
    symlink("v1", &data).unwrap();
    let cert = folder.0.path().join("cert");
    symlink("..data/cert", &cert).unwrap();
    let mut watcher = watcher(&[&cert]);
    symlink("v2", folder.0.path().join("..next")).unwrap();
    fs::rename(folder.0.path().join("..next"), &data).unwrap();
    assert_eq!(watcher.changed().await, Change::Files(vec![cert]));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_stat_does_not_show_is_found_while_the_file_is_young() {
    let folder = Folder::new();
    let config = folder.write("config", "a");
    let mut watcher = watcher(&[&config]);
    folder.write("config", "b");
    watcher.files[0].1.stat = stat(&config);
    assert_eq!(watcher.changed().await, Change::Files(vec![config]));
}

#[tokio::test(start_paused = true)]
async fn replaced_paths_keep_what_is_known_of_a_file() {
    let folder = Folder::new();
    let (kept, left) = (folder.write("kept", "a"), folder.write("left", "a"));
    let mut watcher = watcher(&[&kept, &left]);
    folder.write("kept", "b");
    folder.write("left", "b");
    let added = folder.write("added", "a");
    watcher.replace_paths([kept.clone(), added]);
    assert_eq!(watcher.changed().await, Change::Files(vec![kept]));
    assert!(quiet(&mut watcher).await);
}

#[tokio::test]
async fn hangup_calls_back_without_a_change_until_stopped() {
    let watcher = FileWatcher::new([], Duration::from_secs(3600)).unwrap();
    let stop = CancellationToken::new();
    let mut seen = Vec::new();
    kill_process(getpid(), Number::HUP).unwrap();
    let token = stop.clone();
    watcher
        .run(token, |change| {
            seen.push(change);
            stop.cancel();
        })
        .await;
    assert_eq!(seen, [Change::Hangup]);
}
