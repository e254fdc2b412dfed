use super::*;
use proptest::prelude::*;

fn write(path: &Path, documents: &[Vec<u32>], vocab_size: usize) -> ShardHeader {
    let mut writer = ShardWriter::create(path, vocab_size, 7).unwrap();
    for (i, ids) in documents.iter().enumerate() {
        writer.push(ids, ids.len() * 3, "group", &format!("document {i}")).unwrap();
    }
    writer.finish().unwrap()
}

fn read_all(shard: &Shard) -> Result<Vec<Vec<u32>>> {
    (0..shard.documents())
        .map(|d| {
            let mut ids = Vec::new();
            shard.read(d, &mut ids).map(|()| ids)
        })
        .collect()
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tok");
    let mut writer = ShardWriter::create(&path, 10, 0).unwrap();
    writer.push(&[1, 2, 3], 3, "g", "d").unwrap();
    assert_eq!(writer.tokens(), 3);
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let missing = ShardWriter::create(&dir.path().join("no/x.tok"), 10, 0).err().unwrap().to_string();
    assert!(missing.contains("cannot create") && missing.contains("x.tok"), "{missing}");
}

#[test]
fn lying_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tok");
    write(&path, &[vec![1, 2, 3], vec![9]], 10);
    let whole = std::fs::read(&path).unwrap();
    let says = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let result = Shard::open(&path).and_then(|s| s.verify().and_then(|()| s.names()).and_then(|_| read_all(&s)));
        let text = result.unwrap_err().to_string();
        assert!(text.contains("x.tok") && text.contains("pack"), "{text}");
        text
    };
    assert!(says(&whole[..100]).contains("too few for a header"));
    assert!(says(&whole[..whole.len() - 1]).contains("but its header says"));
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    assert!(says(&changed(0)).contains("not a packed token file"));
    assert!(says(&changed(8)).contains("version"));
    assert!(says(&changed(30)).contains("header is damaged"));
    assert!(says(&changed(4097)).contains("tokens are damaged"));
    assert!(says(&changed(4096 + 8 + 3)).contains("index is damaged"));
    assert!(says(&changed(whole.len() - 4)).contains("names are damaged"));
    // A header with a correct hash and wrong contents.
    let with = |change: fn(&mut ShardHeader)| {
        let mut header = {
            std::fs::write(&path, &whole).unwrap();
            Shard::open(&path).unwrap().header().clone()
        };
        change(&mut header);
        let json = serde_json::to_vec(&header).unwrap();
        let mut bytes = whole.clone();
        bytes[12..16].copy_from_slice(&(json.len() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&hash_bytes(&json).to_le_bytes());
        bytes[24..24 + json.len()].copy_from_slice(&json);
        bytes
    };
    assert!(says(&with(|h| h.tokens = u64::MAX / 2)).contains("an impossible number of"));
    assert!(says(&with(|h| h.documents = u64::MAX)).contains("an impossible number of"));
    assert!(says(&with(|h| h.token_width = 3)).contains("an impossible number of"));
    assert!(says(&with(|h| h.text_bytes = 1)).contains("contradicts"));
    assert!(says(&with(|h| h.vocab_size = 5)).contains("document 1 has the token 9"));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        documents in prop::collection::vec(prop::collection::vec(0u32..70_000, 0..40), 0..12), wide: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tok");
        let vocab_size = if wide { 70_000 } else { 65_536 };
        let documents: Vec<Vec<u32>> =
            documents.into_iter().map(|d| d.into_iter().map(|id| id % vocab_size as u32).collect()).collect();
        let header = write(&path, &documents, vocab_size);
        let shard = Shard::open(&path).unwrap();
        shard.verify().unwrap();
        prop_assert_eq!(shard.header(), &header);
        prop_assert_eq!(header.token_width, if wide { 4 } else { 2 });
        prop_assert_eq!(read_all(&shard).unwrap(), documents.clone());
        prop_assert_eq!(shard.names().unwrap().len(), documents.len());
        for (d, ids) in documents.iter().enumerate() {
            prop_assert_eq!(shard.text_bytes_of(d), ids.len() as u64 * 3);
        }
    }

    #[test]
    fn cut_or_changed_files_never_panic(
        cut in 0usize..5000, at in 0usize..5000, byte: u8, junk in prop::collection::vec(any::<u8>(), 0..100)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tok");
        write(&path, &vec![vec![1, 2, 3]; 20], 10);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..cut.min(whole.len() - 1)]).unwrap();
        prop_assert!(Shard::open(&path).is_err());
        let mut changed = whole.clone();
        let at = at % changed.len();
        changed[at] = byte;
        for bytes in [&changed, &junk, &[&whole[..], &junk].concat()] {
            std::fs::write(&path, bytes).unwrap();
            if let Ok(shard) = Shard::open(&path) {
                let _ = (shard.verify(), shard.names(), read_all(&shard));
            }
        }
    }
}
