//! The services' own tables, made in a real database.

use saga_core::store::Store;
use saga_services::{order, payment, service::create_tables, shipping};

#[tokio::test]
async fn tables_are_made_once_and_a_sold_stock_is_not_filled_up_again() {
    let store = Store::connect("sqlite::memory:", "shop").await.unwrap();
    for schema in [order::SCHEMA, payment::SCHEMA, shipping::SCHEMA] {
        create_tables(&store, schema).await.unwrap();
    }
    let mut tx = store.begin().await.unwrap();
    tx.conn().execute("UPDATE stock SET free = free - $1 WHERE item = $2 AND free >= $1", (7, "book")).await.unwrap();
    tx.commit().await.unwrap();
    create_tables(&store, shipping::SCHEMA).await.unwrap();

    let mut tx = store.begin().await.unwrap();
    let stock: Vec<(String, i64)> =
        tx.conn().fetch_all("SELECT item, free FROM stock WHERE free < 100 OR item = 'book'", ()).await.unwrap();
    assert_eq!(stock, [("book".to_owned(), 999_993), ("lamp".to_owned(), 0)]);
}
