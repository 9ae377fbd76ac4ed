//! Confinement and limits of the tree, on a real directory.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn sample() -> (tempfile::TempDir, Tree) {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("secret.txt"), "secret").unwrap();
    let root = base.path().join("root");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("hello.txt"), "hello\n").unwrap();
    fs::write(root.join("sub/deep.txt"), "deep").unwrap();
    fs::write(root.join("image.bin"), [0xff, 0xd8, 0x00]).unwrap();
    fs::write(root.join("nul.txt"), "a\0b").unwrap();
    fs::write(root.join("big.txt"), "x".repeat(65)).unwrap();
    symlink("sub/deep.txt", root.join("inside")).unwrap();
    symlink("../secret.txt", root.join("outside")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("..", root.join("up")).unwrap();
    let tree = Tree::open(&root, 64, 100, false).unwrap();
    (base, tree)
}

#[test]
fn lists_sorted_with_kinds_and_sizes() {
    let (_base, tree) = sample();
    let listing = tree.list(".").unwrap();
    let names: Vec<&str> = listing.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"hello.txt"), "{names:?}");
    let entry = |name: &str| listing.entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!((entry("hello.txt").kind, entry("hello.txt").size), (Kind::File, Some(6)));
    assert_eq!((entry("sub").kind, entry("sub").size), (Kind::Directory, None));
    assert_eq!((entry("outside").kind, entry("outside").size), (Kind::Symlink, None));
    assert!(!listing.truncated);
    assert_eq!(tree.list("./sub").unwrap().entries.len(), 1);
}

#[test]
fn a_large_directory_is_cut_and_says_so() {
    let (base, _) = sample();
    let tree = Tree::open(&base.path().join("root"), 64, 3, false).unwrap();
    let listing = tree.list(".").unwrap();
    assert_eq!(listing.entries.len(), 3);
    assert!(listing.truncated);
}

#[test]
fn reads_text_and_follows_links_that_stay_inside() {
    let (_base, tree) = sample();
    assert_eq!(tree.read_text("hello.txt").unwrap(), "hello\n");
    assert_eq!(tree.read_text("inside").unwrap(), "deep");
}

#[test]
fn spelled_escapes_are_refused() {
    let (_base, tree) = sample();
    for path in ["../secret.txt", "sub/../../secret.txt", "sub/../hello.txt", "/etc/passwd", "", "a\0b", "/"] {
        assert!(matches!(tree.read_text(path), Err(TreeError::BadPath(_))), "{path:?}");
        assert!(matches!(tree.list(path), Err(TreeError::BadPath(_))), "{path:?}");
    }
    assert!(matches!(tree.read_text(&"a/".repeat(3000)), Err(TreeError::BadPath(text)) if text.len() <= 200));
}

#[test]
fn symlink_escapes_are_refused() {
    let (_base, tree) = sample();
    for path in ["outside", "absolute", "up/secret.txt"] {
        let error = tree.read_text(path).unwrap_err();
        assert!(matches!(error, TreeError::Outside(_)), "{path}: {error:?}");
    }
    let error = tree.list("up").unwrap_err();
    assert!(matches!(error, TreeError::Outside(_)), "{error:?}");
}

#[test]
fn what_is_not_a_readable_text_file_is_refused_by_kind() {
    let (base, tree) = sample();
    assert!(matches!(tree.read_text("none.txt"), Err(TreeError::NotFound(_))));
    assert!(matches!(tree.read_text("sub"), Err(TreeError::NotAFile(_))));
    assert!(matches!(tree.list("hello.txt"), Err(TreeError::NotADirectory(_))));
    assert!(matches!(tree.read_text("image.bin"), Err(TreeError::Binary(_))));
    assert!(matches!(tree.read_text("nul.txt"), Err(TreeError::Binary(_))));
    assert!(matches!(tree.read_text("big.txt"), Err(TreeError::TooLarge { size: 65, limit: 64, .. })));
    // A pipe without a writer must not hang the service.
    let pipe = base.path().join("root/pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(matches!(tree.read_text("pipe"), Err(TreeError::NotAFile(_))));
}

#[test]
fn the_roots_own_location_is_never_told() {
    let (base, tree) = sample();
    let host = base.path().to_string_lossy().into_owned();
    for path in ["none.txt", "outside", "sub", "big.txt"] {
        assert!(!tree.read_text(path).unwrap_err().to_string().contains(&host), "{path}");
    }
}

#[test]
fn names_that_begin_with_a_dot_are_offered_only_on_demand() {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join(".outrigger")).unwrap();
    std::fs::write(base.path().join(".outrigger/token"), "secret").unwrap();
    std::fs::write(base.path().join("plain.txt"), "plain").unwrap();
    let tree = Tree::open(base.path(), 64, 100, false).unwrap();
    let names: Vec<_> = tree.list(".").unwrap().entries.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["plain.txt"]);
    for path in [".outrigger/token", "./.outrigger/token", ".outrigger"] {
        assert!(matches!(tree.read_text(path), Err(TreeError::Hidden(_))), "{path}");
        assert!(matches!(tree.list(path), Err(TreeError::Hidden(_))), "{path}");
    }
    let all = Tree::open(base.path(), 64, 100, true).unwrap();
    assert_eq!(all.read_text(".outrigger/token").unwrap(), "secret");
    assert_eq!(all.list(".").unwrap().entries.len(), 2);
}
