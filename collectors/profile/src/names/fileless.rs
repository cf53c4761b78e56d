//! Code without a file: the kernel's page of user code, and what a process compiled while it ran.
//!
//! Owns when the image and the lists are read, and how many lists at once. Refuses lists to who names all day: reading a
//! Java server's again and again would cost more than all the rest.

use crate::symbols::gopclntab::Pc;
use crate::symbols::jit::JitSymbols;
use crate::symbols::vdso::Vdso;

use super::frames;
use super::known::Called;

/// Processes of one capture whose lists are read.
const LISTS_MAX: usize = 8;
/// Functions in all of them: the most that one may have.
const FUNCTIONS_MAX: usize = 256 << 10;

/// The page, and the lists of this capture.
#[derive(Debug, Default)]
pub(super) struct Fileless {
    page: Page,
    lists: Vec<(u32, Option<JitSymbols>)>,
}

#[derive(Debug, Default)]
enum Page {
    #[default]
    Unread,
    Absent,
    Read(Box<Vdso>),
}

impl Fileless {
    /// What is at an offset in the kernel's page; nothing where nobody knows.
    pub(super) fn in_page(&mut self, (offset, is_return): (u64, bool)) -> Vec<Called> {
        if matches!(self.page, Page::Unread) {
            self.page = Vdso::read().map_or(Page::Absent, |page| Page::Read(Box::new(page)));
        }
        let Page::Read(page) = &mut self.page else { return Vec::new() };
        // As if it were mapped at its first byte.
        let whole = 0..page.length();
        let pc = if is_return { Pc::Return(offset) } else { Pc::Sampled(offset) };
        page.frames(&whole, pc).unwrap_or_default().into_iter().map(frames::native).collect()
    }

    /// What a process compiled to this address, by the list that it keeps.
    pub(super) fn compiled(&mut self, pid: u32, (address, is_return): (u64, bool)) -> Option<&str> {
        let at = match self.lists.iter().position(|(known, _)| *known == pid) {
            Some(at) => at,
            None => {
                let functions: usize =
                    self.lists.iter().flat_map(|(_, list)| list).map(JitSymbols::len).sum();
                let has_room = self.lists.len() < LISTS_MAX && functions < FUNCTIONS_MAX;
                if !has_room {
                    return None;
                }
                self.lists.push((pid, JitSymbols::of_process(pid).ok()));
                self.lists.len() - 1
            }
        };
        let list = self.lists.get(at)?.1.as_ref()?;
        list.name(address.saturating_sub(u64::from(is_return)))
    }

    /// Forgets the lists: the next capture finds others.
    pub(super) fn end(&mut self) {
        self.lists.clear();
    }
}
