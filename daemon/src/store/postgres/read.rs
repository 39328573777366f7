//! What other devices wrote, page by page.

crate::store::sql::statements! {
    PLACEHOLDER = "SELECT 1";
}
