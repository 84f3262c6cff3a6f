SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.notes (
    id text NOT NULL COLLATE pg_catalog."C",
    text text,
    metadata jsonb,
    source text COLLATE pg_catalog."C",
    fingerprint bytea NOT NULL,
    digest bytea NOT NULL,
    embedding public.vector(8) NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.notes_meta (
    key text NOT NULL,
    value jsonb NOT NULL
);
CREATE TABLE public.notes_refusals (
    id text NOT NULL COLLATE pg_catalog."C",
    fingerprint bytea NOT NULL,
    error text NOT NULL,
    message text NOT NULL,
    refused_at timestamp with time zone DEFAULT now() NOT NULL
);
INSERT INTO public.notes VALUES ('id-0', 'A cat sat on the mat.', NULL, NULL, '\x6b1d86e2b230a72c6b1874f837314af2', '\x6b1d86e2b230a72c6b1874f837314af2', '[-0.37857845,-0.43985125,0.089720905,-0.42234474,-0.089720905,0.38295507,0.12473394,-0.55364364]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-1', 'Grüße aus Köln: ein Satz mit Umlauten.', '{"n": 1, "tags": ["a", 1]}', 'file1.md', '\x94b8d5f472818ddbb5d460a8f381dc6f', '\x9c9395267ef13ec64534204a1bf6d3ca', '[0.430321,0.5838409,-0.24888836,0.14654174,-0.053499367,0.46753797,-0.4070604,-0.058151487]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-2', '日本語の文章です。', NULL, 'file2.md', '\x7a33877c748bd1b42c6dbb30d87cddfa', '\xfd5d74a3a2d0b8e337221f20d0115f44', '[0.17005128,-0.13913286,0.5234046,-0.33347717,0.37764636,0.5234046,-0.27164036,-0.27605727]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-3', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', '{"n": 3, "tags": ["a", 3]}', NULL, '\x5cdd422bdc1a5a8a4f9212a974628622', '\x60591c29900cb15ab06cd2ee94bebf36', '[0.30205217,-0.35524377,0.47682452,-0.4844233,0.38943836,0.2450612,-0.028495489,0.32864797]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-4', 'line one
line two', NULL, 'file1.md', '\xb75808904f8bda7e3f97224f13dfd0e5', '\xdd0904990576a38fd4d0c31f59c2136a', '[-0.49121696,0.4123066,-0.44781625,0.08482863,0.40047005,-0.39257902,-0.13612036,0.21897623]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-5', 'tab	and "quotes" and ''these''', '{"n": 5, "tags": ["a", 5]}', 'file2.md', '\x98774389aa646dd077a9d67397db6cfc', '\x17d73a3dd04ed3033e14308870443efe', '[0.49604136,-0.3370052,0.15524958,-0.26127368,0.45060247,0.07194493,0.06437178,-0.579346]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-6', 'The same text.', NULL, NULL, '\x93ffbf03d87e6d8d9687d55774673ac3', '\x93ffbf03d87e6d8d9687d55774673ac3', '[0.39131346,-0.46644562,0.028174568,-0.009391523,0.5227948,-0.122089796,0.5728829,-0.10956777]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-7', 'The same text.', '{"n": 7, "tags": ["a", 7]}', 'file1.md', '\x93ffbf03d87e6d8d9687d55774673ac3', '\x2f4d93a98da2cd75d5ffcc03a2323630', '[0.39131346,-0.46644562,0.028174568,-0.009391523,0.5227948,-0.122089796,0.5728829,-0.10956777]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes VALUES ('id-8', 'numbers 1 2 3', NULL, 'file2.md', '\xdbd94fa4cd00f9e0b3b696a0cbb358b1', '\x12b8dff0dd211893cf584aac6cff9d18', '[0.29264197,-0.31537145,-0.11648855,-0.24718302,-0.7188196,0.13921803,0.36651278,0.26423013]', '2026-11-29 15:51:15.930301+00');
INSERT INTO public.notes_meta VALUES ('schema_version', '1');
INSERT INTO public.notes_meta VALUES ('space', '{"model": "fake", "endpoint": "", "provider": "fake", "dimensions": 8}');
INSERT INTO public.notes_meta VALUES ('answered_by', '"fake"');
INSERT INTO public.notes_meta VALUES ('last_run', '{"total": 9, "failed": 0, "inputs": 9, "stored": 9, "pending": 0, "removed": 0, "retries": 0, "seconds": 0.1427893979998771, "cost_usd": 0.0, "requests": 1, "unchanged": 0, "duplicates": 1, "lost_tokens": 0, "billed_tokens": 141, "at_risk_tokens": 2400000, "refused_earlier": 0}');
ALTER TABLE ONLY public.notes_meta
    ADD CONSTRAINT notes_meta_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.notes
    ADD CONSTRAINT notes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.notes_refusals
    ADD CONSTRAINT notes_refusals_pkey PRIMARY KEY (id);
CREATE INDEX notes_fingerprint_idx ON public.notes USING btree (fingerprint);
CREATE INDEX notes_source_idx ON public.notes USING btree (source);
