//! The prefix tree: latents of tokens that were computed before, for sequences that begin with the same tokens.
//!
//! A node is a page: up to [`PAGE`] tokens after those of its parent. Only full pages have children. Latents depend on
//! the attention forms of all tokens before. So a node has the form of each of its tokens, and its children differ in
//! tokens or forms. Generated tokens are kept as well: the next turn of a conversation re-uses the whole turn before.
//!
//! A page that a sequence finds whole is shared. If it can use only a part of a page, the first tokens are copied. When
//! pages run out, leaves that no sequence shares are dropped. The one that was unused for longest is dropped first.

use super::pages::Pages;
use hadal_model::Form;
use hadal_ops::latent::PAGE;

/// What a sequence may re-use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Latents of given and of generated tokens: a follow-up turn computes only what is new.
    #[default]
    All,
    /// Latents of given tokens alone: the results have the bits of a run that re-uses nothing.
    Given,
    /// Nothing.
    None,
}

impl Reuse {
    /// Whether a token that attended in this form may be re-used.
    pub(crate) fn accepts(self, form: Form) -> bool {
        match self {
            Self::All => true,
            Self::Given => form == Form::Decompressed,
            Self::None => false,
        }
    }
}

struct Node {
    parent: usize,
    ids: Vec<i32>,
    forms: Vec<Form>,
    page: u32,
    children: Vec<usize>,
    /// When it was last found or added.
    used: u64,
}

/// What was found of a sequence's first tokens.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Pages to share, all of whose tokens are wanted.
    pub(crate) pages: Vec<u32>,
    /// A page of which only the first tokens are wanted, and how many.
    pub(crate) part: Option<(u32, usize)>,
    /// Attention form of every token found.
    pub(crate) forms: Vec<Form>,
}

impl Hit {
    /// Tokens found.
    pub(crate) fn tokens(&self) -> usize {
        self.forms.len()
    }
}

/// The tree. Node 0 is the root, which has no page.
pub(crate) struct PrefixTree {
    nodes: Vec<Option<Node>>,
    vacant: Vec<usize>,
    clock: u64,
}

impl PrefixTree {
    pub(crate) fn new() -> Self {
        let root =
            Node { parent: 0, ids: Vec::new(), forms: Vec::new(), page: u32::MAX, children: Vec::new(), used: 0 };
        Self { nodes: vec![Some(root)], vacant: Vec::new(), clock: 0 }
    }

    /// Pages that the tree holds.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.vacant.len() - 1
    }

    fn node(&self, i: usize) -> &Node {
        self.nodes[i].as_ref().expect("a node of the tree")
    }
    fn node_mut(&mut self, i: usize) -> &mut Node {
        self.nodes[i].as_mut().expect("a node of the tree")
    }

    /// Finds the longest beginning of `ids` in the tree in which `wanted` accepts the place and the form of every
    /// token.
    pub(crate) fn find(&mut self, ids: &[i32], wanted: impl Fn(usize, Form) -> bool) -> Hit {
        let mut hit = Hit::default();
        self.clock += 1;
        let (mut at, mut rest) = (0, ids);
        while !rest.is_empty() {
            let before = ids.len() - rest.len();
            let common = |node: &Node| {
                let same = node.ids.iter().zip(rest).zip(&node.forms).enumerate();
                same.take_while(|(i, ((a, b), form))| a == b && wanted(before + i, **form)).count()
            };
            // If several are equally long, the one that was added first.
            let best = self
                .node(at)
                .children
                .iter()
                .map(|c| (common(self.node(*c)), *c))
                .reduce(|a, b| if b.0 > a.0 { b } else { a });
            let Some((n, child)) = best.filter(|(n, _)| *n > 0) else { break };
            let clock = self.clock;
            let node = self.node_mut(child);
            node.used = clock;
            hit.forms.extend(&node.forms[..n]);
            if n < PAGE {
                hit.part = Some((node.page, n));
                break;
            }
            hit.pages.push(node.page);
            (at, rest) = (child, &rest[n..]);
        }
        hit
    }

    /// Adds the pages of a sequence. The tree shares them from then on. A page whose tokens are in the tree already is
    /// not added.
    pub(crate) fn add(&mut self, ids: &[i32], forms: &[Form], pages: &[u32], counts: &mut Pages) {
        self.clock += 1;
        let mut at = 0;
        for ((ids, forms), page) in ids.chunks(PAGE).zip(forms.chunks(PAGE)).zip(pages) {
            let clock = self.clock;
            let begins = |node: &Node| node.ids.starts_with(ids) && node.forms.starts_with(forms);
            let known = self.node(at).children.iter().copied().find(|c| begins(self.node(*c)));
            if let Some(known) = known {
                self.node_mut(known).used = clock;
                at = known;
                continue;
            }
            // A shorter page of the same tokens is replaced.
            let shorter = |node: &Node| {
                node.ids.len() < ids.len() && ids.starts_with(&node.ids) && forms.starts_with(&node.forms)
            };
            let shorter = self.node(at).children.iter().copied().find(|c| shorter(self.node(*c)));
            counts.share(*page);
            if let Some(place) = shorter {
                let node = self.node_mut(place);
                counts.release(std::mem::replace(&mut node.page, *page));
                (node.ids, node.forms, node.used) = (ids.to_vec(), forms.to_vec(), clock);
                at = place;
            } else {
                let (ids, forms) = (ids.to_vec(), forms.to_vec());
                at = self.insert(Node { parent: at, ids, forms, page: *page, children: Vec::new(), used: clock });
            }
        }
    }

    /// Adds a node to its parent's children. Returns its place.
    fn insert(&mut self, node: Node) -> usize {
        let parent = node.parent;
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[place] = Some(node);
        self.node_mut(parent).children.push(place);
        place
    }

    /// Drops the leaf that was unused for longest, of those that no sequence shares. Returns false if there is none.
    pub(crate) fn evict(&mut self, counts: &mut Pages) -> bool {
        let alone = |(i, node): (usize, &Option<Node>)| {
            let node = node.as_ref().filter(|n| i > 0 && n.children.is_empty() && counts.references(n.page) == 1)?;
            Some((node.used, i))
        };
        let Some((_, leaf)) = self.nodes.iter().enumerate().filter_map(alone).min() else { return false };
        let node = self.nodes[leaf].take().expect("a leaf of the tree");
        counts.release(node.page);
        self.node_mut(node.parent).children.retain(|c| *c != leaf);
        self.vacant.push(leaf);
        true
    }

    /// Drops everything that no sequence shares.
    pub(crate) fn clear(&mut self, counts: &mut Pages) {
        while self.evict(counts) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: usize) -> Vec<i32> {
        (0..n as i32).collect()
    }
    fn given(n: usize) -> Vec<Form> {
        vec![Form::Decompressed; n]
    }

    #[test]
    fn what_was_kept_is_found_page_by_page_and_in_part() {
        let mut pages = Pages::new(8);
        let mut tree = PrefixTree::new();
        let own: Vec<u32> = (0..3).filter_map(|_| pages.take()).collect();
        let all = ids(2 * PAGE + 9);
        tree.add(&all, &given(all.len()), &own, &mut pages);
        own.iter().for_each(|p| pages.release(*p));
        assert_eq!((tree.len(), pages.free()), (3, 5));
        let hit = tree.find(&ids(3 * PAGE), |_, form| Reuse::All.accepts(form));
        assert_eq!((hit.pages.as_slice(), hit.part, hit.tokens()), (&own[..2], Some((own[2], 9)), 2 * PAGE + 9));
        // Another continuation in the second page.
        let mut other = ids(PAGE + 40);
        other[PAGE + 30] = -5;
        let hit = tree.find(&other, |_, form| Reuse::All.accepts(form));
        assert_eq!((hit.pages.as_slice(), hit.part), (&own[..1], Some((own[1], 30))));
        assert_eq!(tree.find(&[7, 8], |_, form| Reuse::All.accepts(form)), Hit::default());
        assert_eq!(tree.find(&all, |_, form| Reuse::None.accepts(form)), Hit::default());
        tree.clear(&mut pages);
        assert_eq!((tree.len(), pages.free()), (0, 8));
    }

    #[test]
    fn generated_tokens_are_found_unless_only_given_ones_are_wanted() {
        let mut pages = Pages::new(4);
        let mut tree = PrefixTree::new();
        let page = pages.take().unwrap();
        let forms = [vec![Form::Decompressed; 10], vec![Form::Absorbed; 5]].concat();
        tree.add(&ids(15), &forms, &[page], &mut pages);
        assert_eq!(tree.find(&ids(40), |_, form| Reuse::All.accepts(form)).forms, forms);
        assert_eq!(tree.find(&ids(40), |_, form| Reuse::Given.accepts(form)).part, Some((page, 10)));
        // The same tokens, all given, are other latents.
        let second = pages.take().unwrap();
        tree.add(&ids(15), &given(15), &[second], &mut pages);
        assert_eq!(tree.find(&ids(40), |_, form| Reuse::Given.accepts(form)).part, Some((second, 15)));
    }

    #[test]
    fn a_longer_tail_replaces_a_shorter_one_and_the_oldest_leaf_goes_first() {
        let mut pages = Pages::new(4);
        let mut tree = PrefixTree::new();
        let own: Vec<u32> = (0..3).filter_map(|_| pages.take()).collect();
        tree.add(&ids(5), &given(5), &own[..1], &mut pages);
        tree.add(&ids(9), &given(9), &own[1..2], &mut pages);
        assert_eq!((tree.len(), pages.references(own[0]), pages.references(own[1])), (1, 1, 2));
        tree.add(&[100, 101], &given(2), &own[2..3], &mut pages);
        own.iter().for_each(|p| pages.release(*p));
        tree.find(&ids(9), |_, form| Reuse::All.accepts(form));
        assert!(tree.evict(&mut pages));
        assert_eq!(tree.find(&[100, 101], |_, form| Reuse::All.accepts(form)).tokens(), 0);
        assert_eq!(tree.find(&ids(9), |_, form| Reuse::All.accepts(form)).tokens(), 9);
        // A page that a sequence shares stays.
        pages.share(own[1]);
        assert!(!tree.evict(&mut pages));
    }
}
