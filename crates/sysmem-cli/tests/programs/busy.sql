CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT, weight REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
INSERT INTO words SELECT i, printf('w%x', i * 2654435761 % 4294967296), i * 0.5 FROM n;
CREATE INDEX by_word ON words (word);
SELECT count(*), min(word), max(word), sum(weight) FROM words;
SELECT substr(word, 1, 2) AS head, count(*), group_concat(id, '') IS NOT NULL
FROM words GROUP BY head ORDER BY 2 DESC, 1 LIMIT 5;
DELETE FROM words WHERE id % 3 = 0;
VACUUM;
SELECT length(group_concat(word)) FROM (SELECT word FROM words ORDER BY word DESC);
PRAGMA integrity_check;
