use super::*;
use crate::Memory;

/// A sequence of numbers that looks random and is the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Of either family, of any length.
    fn prefix(&mut self) -> Prefix {
        if self.below(4) == 0 {
            let address = u128::from(self.next()) << 64 | u128::from(self.next());
            let length = u8::try_from(16 + self.below(113)).unwrap();
            Prefix::new(std::net::Ipv6Addr::from(address).into(), 128)
                .unwrap()
                .widen(length)
        } else {
            let address = u32::try_from(self.next() >> 32).unwrap();
            let length = u8::try_from(8 + self.below(25)).unwrap();
            Prefix::new(std::net::Ipv4Addr::from(address).into(), 32)
                .unwrap()
                .widen(length)
        }
    }
}

fn prefixes(count: usize, seed: u64) -> Vec<Prefix> {
    let mut numbers = Numbers(seed);
    let mut set = BTreeSet::new();
    while set.len() < count {
        set.insert(numbers.prefix());
    }
    set.into_iter().collect()
}

fn stored(prefixes: &[Prefix]) -> (Memory, Content) {
    let built = build(prefixes.to_vec());
    let mut memory = Memory::default();
    memory.extend(built.chunks);
    (memory, built.content)
}

fn all(chunks: &dyn Chunks, root: &ContentHash) -> Vec<Prefix> {
    let leaves = walk(chunks, root).unwrap();
    leaves
        .iter()
        .flat_map(|(leaf, count)| {
            let prefixes = prefixes_of(chunks, leaf).unwrap();
            assert_eq!(prefixes.len(), *count);
            prefixes
        })
        .collect()
}

#[test]
fn what_goes_in_comes_out_sorted_and_once() {
    for count in [0, 1, 2, 63, 64, 65, 1_000, 30_000] {
        let wanted = prefixes(count, 7);
        let mut shuffled = wanted.clone();
        shuffled.reverse();
        shuffled.extend(wanted.iter().take(5));
        let built = build(shuffled);
        assert_eq!((built.content.prefixes, built.added), (count, count));
        assert_eq!(built, build(wanted.clone()), "the same whatever the order");
        let mut memory = Memory::default();
        memory.extend(built.chunks);
        assert_eq!(all(&memory, &built.content.root), wanted);
        let root = memory.read(&built.content.root).unwrap();
        assert_eq!(super::count(&built.content.root, &root).unwrap(), count);
        assert_eq!(
            reachable(&memory, &[built.content.root]).unwrap().len(),
            memory.len()
        );
    }
}

#[test]
fn leaves_are_of_about_a_thousand() {
    let (memory, content) = stored(&prefixes(100_000, 1));
    let leaves = walk(&memory, &content.root).unwrap().len();
    assert!((70..=140).contains(&leaves), "{leaves}");
}

#[test]
fn one_prefix_moves_two_leaves_a_branch_and_the_root_at_most() {
    let before = prefixes(20_000, 2);
    let (memory, content) = stored(&before);
    let mut numbers = Numbers(3);
    for round in 0..400 {
        let position = usize::try_from(numbers.below(before.len() as u64)).unwrap();
        let mut after = before.clone();
        let edited = if round % 2 == 0 {
            let gone = after.remove(position);
            edit(&memory, &content.root, &[], &[gone]).unwrap()
        } else {
            let new = numbers.prefix();
            after.push(new);
            edit(&memory, &content.root, &[new], &[]).unwrap()
        };
        if round % 8 < 2 {
            let anew = build(after).content;
            assert_eq!(edited.content, anew, "an edit leads where a new list does");
        }
        let leaves = |chunks: &[Chunk]| {
            let is_leaf = |chunk: &&Chunk| matches!(chunk.bytes[0], b'4' | b'6');
            chunks.iter().filter(is_leaf).count()
        };
        assert!(leaves(&edited.chunks) <= 2, "{}", leaves(&edited.chunks));
        assert!(edited.chunks.len() <= 5, "{}", edited.chunks.len());
    }
}

#[test]
fn edits_of_any_size_lead_where_a_new_list_leads() {
    let mut numbers = Numbers(11);
    let mut now: BTreeSet<Prefix> = BTreeSet::new();
    let (mut memory, mut content) = stored(&[]);
    for round in 0..60 {
        let size = [1, 3, 50, 3_000][round % 4];
        let add: Vec<Prefix> = (0..size).map(|_| numbers.prefix()).collect();
        let held: Vec<Prefix> = now.iter().copied().collect();
        let stranger = numbers.prefix();
        let remove: Vec<Prefix> = match round % 5 {
            4 if round % 2 == 0 => held.clone(),
            _ => (0..size / 2)
                .filter_map(|_| {
                    let most = held.len().max(1) as u64;
                    held.get(usize::try_from(numbers.below(most)).unwrap())
                        .copied()
                })
                .chain([stranger])
                .collect(),
        };
        let before = now.clone();
        now.retain(|prefix| !remove.contains(prefix));
        now.extend(&add);
        let edited = edit(&memory, &content.root, &add, &remove).unwrap();
        let anew = build(now.iter().copied().collect());
        assert_eq!(edited.content, anew.content, "round {round}");
        assert_eq!(edited.added, now.difference(&before).count());
        assert_eq!(edited.removed, before.difference(&now).count());
        memory.extend(edited.chunks);
        assert_eq!(lacking(&memory, &edited.content.root).unwrap(), []);
        let between = difference(&memory, &content.root, &edited.content.root).unwrap();
        assert_eq!(
            between.added,
            now.difference(&before).copied().collect::<Vec<_>>()
        );
        assert_eq!(
            between.removed,
            before.difference(&now).copied().collect::<Vec<_>>()
        );
        content = edited.content;
    }
}

#[test]
fn content_that_was_chosen_to_be_cut_badly_keeps_its_bounds() {
    let host = |number: u32| Prefix::new(std::net::Ipv4Addr::from(number).into(), 32).unwrap();
    let is_candidate = |prefix: &Prefix| number_of(*prefix).trailing_zeros() >= 10;
    let many: Vec<Prefix> = (0..20_000_000).map(host).filter(is_candidate).collect();
    assert!(many.len() > 18_000);
    let (memory, content) = stored(&many);
    let sizes: Vec<usize> = walk(&memory, &content.root)
        .unwrap()
        .iter()
        .map(|leaf| leaf.1)
        .collect();
    assert_eq!(sizes[0], cut::LEAF.most, "only places to end at");
    let none: Vec<Prefix> = (0..100_000)
        .map(host)
        .filter(|prefix| !is_candidate(prefix))
        .collect();
    let (memory, content) = stored(&none);
    let leaves = walk(&memory, &content.root).unwrap();
    assert!(leaves.iter().all(|leaf| leaf.1 <= cut::LEAF.most));
    assert_eq!(all(&memory, &content.root), none);
}

#[test]
fn what_is_lacking_is_said_level_by_level() {
    let (whole, content) = stored(&prefixes(50_000, 5));
    let mut here = Memory::default();
    let mut steps = 0;
    loop {
        let lacking = lacking(&here, &content.root).unwrap();
        if lacking.is_empty() {
            break;
        }
        steps += 1;
        for hash in lacking {
            assert!(!here.has(&hash), "asked for twice");
            here.insert(Chunk::new(whole.read(&hash).unwrap()));
        }
    }
    assert_eq!((steps, here.len()), (3, whole.len()));
}

#[test]
fn the_longest_prefix_is_found_wherever_it_stands() {
    let mut list = prefixes(5_000, 6);
    for text in [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.128.0.0/9",
        "10.128.0.1",
        "2001:db8::/32",
    ] {
        list.push(text.parse().unwrap());
    }
    let (memory, content) = stored(&list);
    let mut numbers = Numbers(8);
    for round in 0..1_000 {
        let address = match round {
            0 => "10.128.0.2".parse().unwrap(),
            1 => "10.128.0.1".parse().unwrap(),
            2 => "2001:db8:ffff::".parse().unwrap(),
            3 => "::".parse().unwrap(),
            _ => numbers.prefix().address(),
        };
        let holding = list.iter().filter(|prefix| prefix.contains(address));
        let wanted = holding.max_by_key(|prefix| prefix.length()).copied();
        assert_eq!(
            longest(&memory, &content.root, address).unwrap(),
            wanted,
            "{address}"
        );
    }
    let (memory, content) = stored(&[]);
    assert_eq!(
        longest(&memory, &content.root, [1, 2, 3, 4].into()).unwrap(),
        None
    );
}

#[test]
fn damage_is_named_and_never_believed() {
    let (memory, content) = stored(&prefixes(3_000, 9));
    for hash in reachable(&memory, &[content.root]).unwrap() {
        let bytes = memory.read(&hash).unwrap();
        for length in [0, 1, bytes.len() - 1] {
            let mut broken = memory.clone();
            broken.insert(Chunk {
                hash,
                bytes: bytes[..length].to_vec(),
            });
            let read = walk(&broken, &content.root).and_then(|leaves| {
                leaves
                    .iter()
                    .try_for_each(|leaf| prefixes_of(&broken, &leaf.0).map(drop))
            });
            let is_said =
                matches!(&read, Err(ContentError::Damaged { hash: named, .. }) if *named == hash);
            // A list that ends between two items is well formed; its name says that it is another one.
            assert!(is_said || length <= 1, "{read:?}");
        }
    }
}
