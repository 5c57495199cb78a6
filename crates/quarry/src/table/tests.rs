//! Tables in files and in terminals.

use super::*;

fn rows(rows: &[[&str; 2]]) -> impl Iterator<Item = Vec<String>> {
    rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect::<Vec<_>>().into_iter()
}

#[test]
fn pages_are_one_table() {
    let mut table = Table::new(&[Column::words("NAME"), Column::figures("SIZE")], Terminal::default());
    assert_eq!(table.page(rows(&[])), "");
    assert!(table.is_empty());
    assert_eq!(
        table.page(rows(&[["longest", "1Gi"], ["b", "100Gi"]])),
        "NAME      SIZE\nlongest    1Gi\nb        100Gi\n"
    );
    assert_eq!(table.page(rows(&[["c", "2Gi"]])), "c          2Gi\n");
    assert_eq!(table.page(rows(&[["longer than that", "2Gi"]])), "longer than that    2Gi\n");
    assert_eq!(table.page(rows(&[["d", "2Gi"]])), "d                   2Gi\n");
    assert_eq!(table.page(rows(&[])), "");
    assert!(!table.is_empty());
}

#[test]
fn a_cell_is_one_line_without_control_characters() {
    let mut table = Table::new(&[Column::words("A"), Column::words("B")], Terminal::default());
    assert_eq!(table.page(rows(&[["x\u{1b}[2J\ny", "z"]])), "A              B\nx\\u{1b}[2J\\ny  z\n");
}

/// The columns of a table in a terminal that is this wide.
fn narrow(columns: &[Column], width: u16) -> Table {
    Table::new(columns, Terminal { width: Some(width), colors: false })
}

fn three(rows: &[[&str; 3]]) -> impl Iterator<Item = Vec<String>> {
    rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect::<Vec<_>>().into_iter()
}

#[test]
fn sentences_are_wrapped_in_their_column_while_there_is_room() {
    let columns = [Column::words("NAME"), Column::words("B").left_out(0), Column::words("WHY").text(10)];
    let row = ["name", "b", "the disk does not answer"];
    let mut table = narrow(&columns, 20);
    assert_eq!(table.page(three(&[row])), "NAME  B  WHY\nname  b  the disk\n         does not\n         answer\n");
    assert_eq!(narrow(&columns, 33).page(three(&[row])), "NAME  B  WHY\nname  b  the disk does not answer\n");
    assert_eq!(table.end(), "");
}

#[test]
fn sentences_without_room_are_below_their_row() {
    let columns = [Column::words("NAME"), Column::words("B").left_out(0), Column::words("WHY").text(30)];
    let mut table = narrow(&columns, 30);
    assert_eq!(
        table.page(three(&[["a", "b", "-"], ["c", "d", "the disk does not answer: see the log"]])),
        "NAME  B\na     b\nc     d\n  WHY:  the disk does not\n        answer: see the log\n"
    );
    assert_eq!(table.page(three(&[["e", "f", "short"]])), "e     f\n  WHY:  short\n");
}

#[test]
fn names_are_wrapped_and_columns_are_left_out_by_rank() {
    let columns = [
        Column::words("NODE").name(10),
        Column::words("ID"),
        Column::words("FIRST").left_out(9),
        Column::figures("LAST").left_out(1),
    ];
    let row = || vec![["node-number-one", "v1:whole", "abc", "7"].map(str::to_owned).to_vec()].into_iter();
    let printed = |width| {
        let mut table = narrow(&columns, width);
        table.page(row()) + &table.end()
    };
    assert_eq!(printed(38), "NODE             ID        FIRST  LAST\nnode-number-one  v1:whole  abc       7\n");
    let wrapped = "NODE        ID        FIRST  LAST\nnode-numbe  v1:whole  abc       7\nr-one\n";
    assert_eq!(printed(33), wrapped);
    let without = "NODE           ID        LAST\nnode-number-o  v1:whole     7\nne\n";
    assert_eq!(printed(29), format!("{without}\nno room for FIRST: see -o\nwide\n"));
    // The rest is never cut, even if it does not fit.
    assert!(printed(5).contains("node-numbe  v1:whole\n"), "{}", printed(5));
}

#[test]
fn wide_characters_count_twice() {
    let columns = [Column::words("A").left_out(0), Column::words("B")];
    let row = || vec![["磁盘磁盘".to_owned(), "b".to_owned()]].into_iter().map(|row| row.to_vec());
    assert_eq!(narrow(&columns, 11).page(row()), "A         B\n磁盘磁盘  b\n");
    assert_eq!(narrow(&columns, 10).page(row()), "B\nb\n");
}

#[test]
fn colours_surround_the_text_and_change_no_column() {
    fn paint(cell: &str) -> Style {
        if cell == "down" { BAD } else { Style::new() }
    }
    let columns = [Column::words("NAME"), Column::words("STATE").painted(paint), Column::figures("N").painted(paint)];
    let rows = || three(&[["磁盘", "up", "1"], ["磁盘", "down", "down"]]);
    let plain = Table::new(&columns, Terminal::default()).page(rows());
    let painted = Table::new(&columns, Terminal { width: None, colors: true }).page(rows());
    assert_eq!(plain, "NAME  STATE     N\n磁盘  up        1\n磁盘  down   down\n");
    let (red, end) = ("\u{1b}[31m", "\u{1b}[0m");
    assert_eq!(painted, plain.replace("down   down", &format!("{red}down{end}   {red}down{end}")));
    // Wrapped text is painted on each line.
    let columns = [Column::words("WHY").text(4).painted(|_| BAD)];
    let mut table = Table::new(&columns, Terminal { width: Some(6), colors: true });
    let rows = vec![vec!["down again".to_owned()]].into_iter();
    assert_eq!(table.page(rows), format!("WHY\n{red}down{end}\n{red}again{end}\n"));
}
